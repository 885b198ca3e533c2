"""Small programs to learn from, each run by the tests: `python -m examples.solve` and so on, at the top of the checkout."""
