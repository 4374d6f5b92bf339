output "run_commands" {
  description = "The command that clears a scheduled backlog now, by the backlog's name; it works while the schedule is suspended."
  value = {
    for name, job in kubernetes_cron_job_v1.this :
    name => "kubectl create job --namespace ${var.namespace} --from=cronjob/${job.metadata[0].name} ${job.metadata[0].name}-$(date +%s)"
  }
}

output "logs_command" {
  description = "The command that shows the results of all slices."
  value       = "kubectl logs --namespace ${var.namespace} --selector app.kubernetes.io/name=${var.name} --tail=-1 --prefix"
}

output "receipts" {
  description = "Where receipts go: a URL, or a folder of the claim."
  value       = coalesce(var.receipts.url, local.volume)
}

output "service_account" {
  description = "The service account that the pods run as, in the form in which a cloud's identity is bound to it: NAMESPACE/NAME."
  value       = "${var.namespace}/${kubernetes_service_account_v1.this.metadata[0].name}"
}
