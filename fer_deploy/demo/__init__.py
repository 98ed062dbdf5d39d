"""The web page of `ferdeploy demo`: faces and expressions in photos and from a camera, computed in the browser.

`page/` holds our own files (markup, style, scripts). `parts` fetches the files that others made (ONNX Runtime for
browsers and CenterFace's weights), `weights` adapts the latter, `site` puts everything and a model together, and
`server` serves the result on this machine.
"""
