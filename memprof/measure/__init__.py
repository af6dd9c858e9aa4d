"""The measured witness as far as memory goes: what a device's allocator, its driver and the system say of a step."""
