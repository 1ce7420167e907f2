"""One folder an op: public function, schema, reference, and the backends that serve it."""
