"""Tokens to text and back: templates, detokenising, stop strings, one answer for all dialects."""
