"""Why a method's peak is where it is: held against AdamW's, taken apart by module, and what would lower it."""
