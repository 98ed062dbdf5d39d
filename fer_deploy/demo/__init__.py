"""The web page of `ferdeploy demo`: faces and emotions in photos and from a camera, computed in the browser alone.

`page/` holds our own files (markup, style, scripts), `parts` brings the two parts that others made (ONNX Runtime for
browsers, CenterFace's weights), `site` puts them and a model together, and `server` gives them out on this machine.
"""
