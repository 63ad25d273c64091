"""The flow of the scenario with MQTT devices: sensors and brokers beside two gateways."""
