output "clear_now" {
  description = "The command that clears the backlog now."
  value       = module.drain.run_commands["orders"]
}

output "logs" {
  description = "The command that shows the results."
  value       = module.drain.logs_command
}
