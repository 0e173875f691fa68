"""Storage: objects in a folder or a bucket, and the keys of the lake's objects.

Works without Dagster, and knows nothing about bars. Not here: the content of objects (`lake`).
"""
