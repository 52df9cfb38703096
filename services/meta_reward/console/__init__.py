"""The operator's console: pages made here, in plain HTML and SVG, that work without JavaScript.

Every text of a policy or a model goes through the templates' escaping, and the pages' Content-Security-Policy
lets nothing run but the one script that ships with them.
"""
