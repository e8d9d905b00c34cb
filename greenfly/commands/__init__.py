"""One module per command.  They import what is heavy inside their functions, so that ``--help`` stays fast."""
