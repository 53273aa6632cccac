"""Where results go: one file a system; `contract.py` says what each of them promises."""
