"""Update rules: maps of a point of a game to the next, one family a file."""
