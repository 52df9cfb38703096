"""Engines: one Protocol, a dialect for each kind of server, and the probe that tells them apart."""
