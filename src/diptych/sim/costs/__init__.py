"""What steps, messages and transfers take in virtual time: constants, measured tables, rooflines."""
