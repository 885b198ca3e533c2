"""What every training of a model has in common: its settings, its folder, and how the Hugging Face Trainer is set up.

Only `trainer` imports torch. What is trained, on what and with which loss is the business of `policy` and `ppm`.
"""
