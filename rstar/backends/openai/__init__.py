"""Policies behind servers that speak OpenAI's API: `policy.OpenAIPolicy`, set up by `config.OpenAIConfig`."""
