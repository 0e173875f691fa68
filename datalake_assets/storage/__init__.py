"""Storage: objects in a folder or a bucket, and where each of the lake's objects lies.

Works without Dagster, and knows nothing of bars. Not here: what an object holds (`lake`).
"""
