"""A server over a solver: OpenAI's wire format for clients that know it, whole trees for those who want them. See docs/server.md."""
