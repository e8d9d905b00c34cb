"""Moving keys from one server to another."""
