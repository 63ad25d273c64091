"""Calibration: measures what stages and messages take here, for ``calibration.json`` beside a topology.

``stages`` times a flow's stages as the engine runs them, ``counts`` counts a kernel's instructions on an emulated
microcontroller, ``hops`` reads what messages take from the report of a run, ``streams`` what data makes of rows.
``whole`` does all of it.
"""
