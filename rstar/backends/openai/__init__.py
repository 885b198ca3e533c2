"""Servers with OpenAI's API as policies."""
