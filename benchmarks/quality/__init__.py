"""The tables of docs/quality.md: every data set, several seeds, against targets and peers. Run by `make quality`."""
