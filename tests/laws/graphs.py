"""What runs of a traced graph."""


def needed(tensors):
    """The types of the operations that have to run for these."""
    found, left = set(), [tensor.op for tensor in tensors]
    while left:
        operation = left.pop()
        if operation not in found:
            found.add(operation)
            left.extend(tensor.op for tensor in operation.inputs)
    return {operation.type for operation in found}
