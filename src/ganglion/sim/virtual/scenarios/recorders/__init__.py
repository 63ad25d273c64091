"""The flow of most built-in scenarios: meters with breakers below two gateways."""
