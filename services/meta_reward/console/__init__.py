"""The operator's console: pages rendered on the server in HTML and SVG, which work without JavaScript.

The templates escape every text of a policy or a model, and the Content-Security-Policy allows only the one script that
ships with the console.
"""
