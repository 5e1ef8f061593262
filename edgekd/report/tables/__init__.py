"""The report's tables, for a page and for Markdown alike, by topic."""
