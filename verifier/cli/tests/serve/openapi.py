"""Checks real answers against the OpenAPI document, with jsonschema, which nobody here wrote.

Argument: a file with {"document", "answers": [{"method", "template", "status", "type", "body"}]}. Fails where an answer is
not described, does not fit its schema, or an operation of the document has no answer with status 200.
"""

import json
import sys

from jsonschema import Draft202012Validator

given = json.load(open(sys.argv[1]))
document = given["document"]
assert document["openapi"].startswith("3.1."), document["openapi"]
for name, schema in document["components"]["schemas"].items():
    Draft202012Validator.check_schema(schema)

answered = set()
for answer in given["answers"]:
    operation = document["paths"][answer["template"]][answer["method"]]
    where = f"{answer['method']} {answer['template']} {answer['status']}"
    assert str(answer["status"]) in operation["responses"], f"{where} is not described"
    content = operation["responses"][str(answer["status"])]["content"]
    assert answer["type"] in content, f"{where}: {answer['type']} is none of {list(content)}"
    schema = {"components": document["components"], "allOf": [content[answer["type"]]["schema"]]}
    Draft202012Validator.check_schema(schema)
    body = json.loads(answer["body"]) if answer["type"] == "application/json" else answer["body"]
    errors = [f"{list(e.absolute_path)}: {e.message[:300]}" for e in Draft202012Validator(schema).iter_errors(body)]
    assert not errors, f"{where}: {errors}"
    if answer["status"] == 200:
        answered.add((answer["method"], answer["template"]))

operations = {(method, path) for path, item in document["paths"].items() for method in item}
assert answered == operations, f"without an answer: {operations - answered}"
print(len(given["answers"]), "answers of", len(operations), "operations")
