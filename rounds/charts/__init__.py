"""The report's drawings, as SVG texts: lines over rounds and tokens, bars, trees. Each takes plain numbers."""
