"""Blueprints: parse, call one use case, render. No rules here."""
