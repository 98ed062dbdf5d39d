"""The report as people read it: in a terminal, as Markdown and as a page."""
