"""The report: facts joined in one JSON, and the page that shows them."""
