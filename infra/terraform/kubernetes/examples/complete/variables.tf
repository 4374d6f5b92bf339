variable "kubeconfig" {
  description = "How the cluster is reached."
  type        = string
  default     = "~/.kube/config"
}

variable "image" {
  description = "The job's image by its digest."
  type        = string
}

variable "bootstrap_servers" {
  description = "The brokers' addresses, comma-separated."
  type        = string
}

variable "brokers_cidr" {
  description = "The brokers' network."
  type        = string
}

variable "receipts_url" {
  description = "The bucket for receipts, as in gs://ops-receipts/drains."
  type        = string
}

variable "service_account_annotations" {
  description = "Binds the pods to an identity that may write to the bucket, as in { \"iam.gke.io/gcp-service-account\" = \"clearer@project.iam.gserviceaccount.com\" }."
  type        = map(string)
}
