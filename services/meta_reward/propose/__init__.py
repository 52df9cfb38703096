"""Proposers: where candidate rubrics come from. Each sees evidence and sampled traces, none sees the gate's anchors."""
