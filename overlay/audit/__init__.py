"""Attacks on a peer that the operator runs against it, and what they measured."""
