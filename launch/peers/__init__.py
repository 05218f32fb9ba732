"""What a user would run instead: small programs without any of this project's code, measured beside it."""
