"""The pages of the console: what people look at. Their paths are in `nsqadmin.site`.

Rules:

- A page is made on the server from one snapshot of the picture; it asks no daemon itself, except for the consumers of
  the one channel or node that it shows and for topics without nodes.
- Whatever the cluster's size, a page has a bounded number of rows; search, order and paging are in its address.
- Every name is text: the templates escape it, the policy of the pages (`render`) forbids scripts and styles in markup.
- Every link begins with the console's base path.
- Pages work without scripts, except that they do not renew themselves then and change nothing in the cluster.

Theory of operation. Each path leads to a *view*, a function from a `Visit` (the console, one snapshot, the parameters,
who asks) to a `Page` (a template and its values). `render` adds what all pages share and makes the response. In the
browser `live.js` holds one stream of events (`stream`); after each poll of the cluster it fetches the page again and
changes what differs in place, and `charts.js` draws the numbers of `series`. What changes the cluster goes from
`actions.js` to the API, never through here.
"""
