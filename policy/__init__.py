"""The policy: training sets from trees, fine-tuning, evaluation."""
