SwaggerUIBundle({
  // Relative to this script, so that it also works below a path of a reverse proxy.
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#api",
  deepLinking: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
