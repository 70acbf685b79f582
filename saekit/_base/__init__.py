"""The ground floor: the cache and its data packages, the front-end sources. No room of saekit's lies below it."""
