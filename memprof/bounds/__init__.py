"""What a device could do at best: measured ceilings, data sheets, and how far a step is from its floor."""
