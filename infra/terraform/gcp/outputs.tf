output "dispatch_url" {
  description = "POST {\"backlog\": NAME} here, with an identity token whose audience is this URL; GET /runs/RUN_ID returns the state of a run."
  value       = local.urls.dispatch
}

output "dispatch_commands" {
  description = "The command that starts a drain by hand, by backlog. The request goes through Cloud Tasks, so it works with internal ingress; it needs cloudtasks.enqueuer on the queue and iam.serviceAccountUser on the scheduler's account."
  value = {
    for name in keys(var.backlogs) : name => join(" ", [
      "gcloud tasks create-http-task --project=${var.project_id} --location=${var.region}",
      "--queue=${google_cloud_tasks_queue.slices.name} --url=${local.urls.dispatch} --method=POST",
      "--header=Content-Type:application/json --body-content='${jsonencode({ backlog = name })}'",
      "--oidc-service-account-email=${google_service_account.this["scheduler"].email} --oidc-token-audience=${local.urls.dispatch}",
    ])
  }
}

output "resume_commands" {
  description = "The command that resumes a paused schedule, by backlog; set enabled = true to keep it enabled."
  value = {
    for name, job in google_cloud_scheduler_job.this : name => "gcloud scheduler jobs resume ${job.name} --project=${var.project_id} --location=${var.region}"
  }
}

output "job_commands" {
  description = "The command that starts a Cloud Run job by hand, by backlog."
  value = {
    for name, job in google_cloud_run_v2_job.this : name => "gcloud run jobs execute ${job.name} --project=${var.project_id} --region=${var.region}"
  }
}

output "receipts" {
  description = "The URL of the receipts, for restore --run RUN_ID --receipt-dir."
  value       = "gs://${google_storage_bucket.receipts.name}/runs"
}

output "bundle" {
  description = "The object that the functions were built from. A new zip is uploaded and built by the next apply; no command is needed."
  value       = "gs://${google_storage_bucket_object.bundle.bucket}/${google_storage_bucket_object.bundle.name}"
}

output "queue" {
  description = "Full name of the queue of slices: `gcloud tasks queues pause` stops every drain after the slices that are running."
  value       = "projects/${var.project_id}/locations/${var.region}/queues/${google_cloud_tasks_queue.slices.name}"
}

output "service_accounts" {
  description = "E-mail addresses of the service accounts, by task: to grant them what a broker needs."
  value       = { for name, account in google_service_account.this : name => account.email }
}
