/* Swagger UI over this service's own description. Asks nobody whether that is valid. */

/* A form is shown with its defaults, and otherwise empty: not with "string", 0 or yes. */
function shownEmpty(spec) {
  for (const operation of Object.values(spec.paths).flatMap((path) => Object.values(path))) {
    const form = operation.requestBody?.content?.["multipart/form-data"]?.schema?.properties ?? {};
    for (const field of Object.values(form))
      if (field.format !== "binary" && field.default === undefined) field.examples = [""];
  }
  return spec;
}

/* A field that is left empty is an option that is not given. */
function withoutEmptyFields(request) {
  if (request.body instanceof FormData)
    for (const [name, value] of [...request.body]) if (value === "") request.body.delete(name);
  return request;
}

globalThis.SwaggerUIBundle({
  spec: shownEmpty(await (await fetch("openapi.json")).json()),
  dom_id: "#swagger",
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  requestInterceptor: withoutEmptyFields,
  tryItOutEnabled: true,
  validatorUrl: null,
});
