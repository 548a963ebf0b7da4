"""The pages of the console. Their paths are in `nsqadmin.site`.

Rules:

- A page is rendered on the server from one snapshot. It sends no requests to daemons, except for the consumers of the
  one channel or node that it shows, and for topics that only the registries know.
- A page has a bounded number of rows, whatever the size of the cluster; search, order and paging are in its address.
- Names are text: the templates escape them, and the content security policy (`render`) forbids scripts and styles in
  markup.
- Every link begins with the console's base path.
- Pages work without JavaScript, except that they do not renew themselves and have no actions.

Theory of operation. Each path leads to a *view*, a function from a `PageRequest` (the console, one snapshot, the
parameters, the user's rights) to a `Page` (a template and its values). `render` adds what all pages share and makes the
response. In the browser, `live.js` receives an event after each poll (`stream`), fetches the page again and changes in
place what differs; `charts.js` draws the series of `charts`. Actions go from `actions.js` to the API.
"""
