output "clear_now" {
  description = "The command that clears the backlog now."
  value       = module.drain.submit_commands["orders"]
}

output "receipts_url" {
  description = "Where receipts go."
  value       = module.drain.receipts_url
}
