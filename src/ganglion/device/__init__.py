"""Devices: emulated sensors and actuators that run the device part of a plan and speak CoAP to their gateway.

`DeviceHost` drives any number of them in one process. Real firmware takes the place of `EmulatedDevice` behind the
same protocol.
"""
