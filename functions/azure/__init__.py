"""The function app for Azure Functions."""
