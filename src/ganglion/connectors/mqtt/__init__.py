"""MQTT 3.1.1 and 5: packets, a client for brokers, and what topics and payloads become in a flow.

The client is written for one thing: as many readings a second as one core can take, each acknowledged only when it is
safe. So PUBLISH packets are cut out of whole socket reads and payloads are decoded column by column.
"""
