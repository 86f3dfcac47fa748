"""Networks as (init, apply) over plain pytrees, one architecture a file."""
