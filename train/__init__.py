"""One run on one or many devices: data, model, parametrisation, engine, loop. Never imports launch or analysis."""
