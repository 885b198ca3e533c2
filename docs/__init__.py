"""The documentation: pages in Markdown, and in `scripts` what makes a site of them."""
