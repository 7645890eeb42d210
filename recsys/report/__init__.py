"""The report: an evaluation's figures as one page that needs neither network nor JavaScript."""
