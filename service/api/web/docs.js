/* Swagger UI over this service's own description. Asks nobody whether that is valid. */

/* A field that is left empty is an option that is not given. */
function withoutEmptyFields(request) {
  if (request.body instanceof FormData)
    for (const [name, value] of [...request.body]) if (value === "") request.body.delete(name);
  return request;
}

globalThis.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger",
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  requestInterceptor: withoutEmptyFields,
  tryItOutEnabled: true,
  validatorUrl: null,
});
