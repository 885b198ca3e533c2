"""vLLM as the engine of policies and preference models; the settings import without it."""
